"""``backend=sagemaker-remote``: jobs on Amazon SageMaker."""
