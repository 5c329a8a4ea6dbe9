"""What runs: videos -> frames -> arrays -> 3D CNN -> metrics.

This package ships into the job, wherever that is. It knows numpy, OpenCV/PyAV and Keras; it knows nothing of AWS,
MLflow, Hydra or Docker.
"""
