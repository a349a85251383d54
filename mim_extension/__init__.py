"""The extension of MIM Software that sends cases to an inference server and draws the contours that come back."""
