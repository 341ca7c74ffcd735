"""DICOM objects: frames in, structured reports out. Everything here needs the extra `dicom`."""
