"""The only place where highdicom is called: predictions in, DICOM SEG, SR, KOS, pictures and PDF out."""
