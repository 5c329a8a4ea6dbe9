"""Where and how an experiment runs and is recorded. Stays on the laptop; never imports TensorFlow, Keras, OpenCV or PyAV."""
