"""Where and how an experiment runs and is recorded. Never ships; imports no TensorFlow, Keras, OpenCV or PyAV."""
