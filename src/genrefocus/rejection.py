"""The one vocabulary for input that cannot be used: a named reason and the value that was measured.

Every part of the project that turns an input away raises :class:`Rejected`, so that a ledger can
count by reason, a command can print one line, and nothing is repaired with a constant.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why an input was rejected. The value is the stable name used in ledgers and JSON lines."""

    # Control signal
    NON_FINITE = "non_finite"
    K_NEGATIVE = "k_negative"
    K_NOT_POSITIVE = "k_not_positive"
    FOCUS_DISPARITY_NEGATIVE = "focus_disparity_negative"
    FOCUS_WITHIN_FOCAL_LENGTH = "focus_within_focal_length"
    DEPTH_WITHOUT_SPREAD = "depth_without_spread"
    EMPTY_MASK = "empty_mask"
    LENS_FACT_NOT_POSITIVE = "lens_fact_not_positive"

    # Files
    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    NOT_AN_IMAGE = "not_an_image"
    IMAGE_DAMAGED = "image_damaged"
    FORMAT_UNSUPPORTED = "format_unsupported"
    IMAGE_TOO_LARGE = "image_too_large"
    METADATA_INVALID = "metadata_invalid"
    FILE_NAME_INVALID = "file_name_invalid"

    # Exposure facts
    NO_EXIF = "no_exif"
    EXIF_CORRUPT = "exif_corrupt"
    FOCAL_LENGTH_MISSING = "focal_length_missing"
    FOCAL_LENGTH_INVALID = "focal_length_invalid"
    F_NUMBER_MISSING = "f_number_missing"
    F_NUMBER_INVALID = "f_number_invalid"
    SENSOR_WIDTH_UNKNOWN = "sensor_width_unknown"
    CROPPED_AFTER_EXPOSURE = "cropped_after_exposure"

    # Calibration of K against a photograph
    K_AT_BOUND = "k_at_bound"
    SCORE_FLAT = "score_flat"
    SCORE_MULTIMODAL = "score_multimodal"

    # Disparity of light fields
    DISPARITY_AT_BOUND = "disparity_at_bound"

    # Point lights
    NO_PLACE_FOR_LIGHTS = "no_place_for_lights"

    # Pairs of images
    SIZES_DIFFER = "sizes_differ"
    IMAGE_TOO_SMALL = "image_too_small"
    REGISTRATION_FAILED = "registration_failed"
    COLOURS_NOT_COMPARABLE = "colours_not_comparable"
    DUPLICATE = "duplicate"
    NOT_AMONG_SHARPEST = "not_among_sharpest"
    COUNTERPART_AMBIGUOUS = "counterpart_ambiguous"

    # A measure outside the gate that the configuration sets for it
    GATE_SSIM = "gate_ssim"
    GATE_MASK_AGREEMENT = "gate_mask_agreement"
    GATE_REGISTRATION_ERROR = "gate_registration_error"
    GATE_COLOUR_SHIFT = "gate_colour_shift"
    GATE_EXPOSURE_SHIFT = "gate_exposure_shift"
    GATE_SHARPNESS_RATIO = "gate_sharpness_ratio"
    GATE_LARGEST_RADIUS = "gate_largest_radius"
    GATE_K = "gate_k"
    GATE_PIXEL_RATIO = "gate_pixel_ratio"


class Rejected(ValueError):
    """An input that cannot be used.

    Args:
        reason: the named reason.
        value: what was measured, as plain data (number, string or None when there is nothing).
        detail: what was expected and how to mend it, in one line.

    ``str()`` is one line: reason, measured value, detail.
    """

    def __init__(self, reason: Reason, value: object = None, detail: str = "") -> None:
        # All three go to ``args``, which is what pickling between worker processes keeps.
        super().__init__(reason, value, detail)
        self.reason = reason
        self.value = value
        self.detail = detail

    def __str__(self) -> str:
        measured = "" if self.value is None else f" ({self.value})"
        explanation = f": {self.detail}" if self.detail else ""
        return " ".join(f"{self.reason.value}{measured}{explanation}".split())
