"""The flow networks of the public checkpoints of DFF and FGFA: every parameter's shape, by our names."""

from vod2.layers.flow_warp import PUBLIC_NAMES

Shapes = dict[str, tuple[int, ...]]


def public_flownet(public: Shapes) -> Shapes:
    """The part of `public` that is the flow network, {name in our `FlowNetS`: shape}."""
    found = {}
    for key, shape in public.items():
        if key.startswith("flownet."):
            _, layer, part = key.split(".")
            found[f"{PUBLIC_NAMES[layer]}.{part}"] = shape
    return found
