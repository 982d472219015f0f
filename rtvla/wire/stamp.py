"""What counts as a sender's clock reading. Data only: decisions use our own monotonic clock at reception."""

MAX_STAMP_S = 1e11  # year 5138: a stamp above it is not in seconds


def is_stamp(stamp_s: float) -> bool:
    """A plausible epoch time in seconds. NaN is not."""
    return 0.0 <= stamp_s <= MAX_STAMP_S
