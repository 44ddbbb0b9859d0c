"""Pictures of Pillow's as the models see them: in RGB, 8 bits a channel."""

from PIL import Image

from unclip.config import ConfigError

CONVERTIBLE = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB, what is transparent in white.

    Raises `ConfigError` for more than 8 bits a channel, of which RGB would cut the upper ones off.
    """
    if image.mode not in CONVERTIBLE:
        raise ConfigError(
            f"a picture of mode {image.mode!r} and {image.width} x {image.height} pixels has no "
            "8 bits a channel, and RGB would cut its values off; scale it to 0 to 255 and convert "
            "it to L or RGB"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
