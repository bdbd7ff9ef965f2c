"""``homodyne hardware``: what this process may use."""


def hardware() -> None:
    """Show the cores, memory, GPUs and batch allocation that a fit could use."""
    from homodyne.device.config import detect_hardware

    print(detect_hardware(gpus=True))
