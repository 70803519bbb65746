"""Used by download: mirrors, and copying or unpacking the user's own images."""
