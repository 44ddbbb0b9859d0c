"""Conversion of Pillow images to the models' input format: RGB, 8 bits per channel."""

from PIL import Image

from unclip.config import ConfigError

CONVERTIBLE = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB; transparent areas become white.

    Raises `ConfigError` for more than 8 bits per channel, because RGB would clip the values.
    """
    if image.mode not in CONVERTIBLE:
        raise ConfigError(
            f"an image of mode {image.mode!r} with {image.width} x {image.height} pixels does not "
            "have 8 bits in each channel, and RGB would clip its values; scale it to 0 to 255 and "
            "convert it to L or RGB"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
