"""Networks: factories over timm, and those no library has."""
