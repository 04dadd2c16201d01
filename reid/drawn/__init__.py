"""The drawn (synthetic) data set: walking people under six or more cameras, drawn from random numbers.

Other packages import `reid.drawn.dataset` and no other module of this folder. An image is made in these steps:

- `plan`: which persons there are, which cameras see them, and the name of every image
- `looks`: the build, hair, clothes and bag that a person keeps under every camera
- `cameras`, `places`: what a camera looks at, and the colours, blur and noise of its sensor
- `figures`, `solids`: a person in a pose, painted as rounded solids
- `photograph`: one image, from the empty place to the detector's crop
"""
