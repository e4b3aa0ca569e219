"""The only place where highdicom is called: predictions in, DICOM SEG and SR out."""
