"""The patch with which stable-audio-tools finds plugins by itself: where it goes, in and out."""
