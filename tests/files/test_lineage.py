from reid.files.lineage import code_sha256


def test_an_edit_or_another_name_changes_the_hash_and_compiled_files_do_not(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.py").write_text("one")
    before = code_sha256(tmp_path)
    assert len(before) == 64
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("compiled")
    assert code_sha256(tmp_path) == before
    (tmp_path / "model" / "a.py").write_text("two")
    edited = code_sha256(tmp_path)
    (tmp_path / "model" / "a.py").rename(tmp_path / "model" / "b.py")
    assert len({before, edited, code_sha256(tmp_path)}) == 3
