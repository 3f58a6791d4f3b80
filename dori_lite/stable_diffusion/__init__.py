"""Stable Diffusion as a World: prompt lists, reference pictures, detectors and settings.

    from dori_lite.stable_diffusion import world
    sd = world.load(world="sd14")  # on a GPU

Its functions are the reef's; what it has not is a twin.
"""
