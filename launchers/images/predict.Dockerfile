# The image of predictions: reads videos, and has TensorFlow. run.py builds it; by hand, from the repository's folder:
#   docker build --platform linux/amd64 -f launchers/images/predict.Dockerfile -t videolift-predict .
#   docker build ... --build-arg PIP_INDEX_URL=https://mirror/simple     # from a mirror of the package index
#   docker build ... --target libraries                                 # without our source
ARG BASE_IMAGE=python:3.11-slim

# Only what this stage leaves in /opt/videolift/lib gets into the image: no wheels, no caches.
FROM ${BASE_IMAGE} AS install
USER root
ARG PIP_INDEX_URL
ARG PIP_TRUSTED_HOST
WORKDIR /opt/videolift/images
COPY launchers/images/wheels wheels
COPY launchers/images/install.py launchers/images/predict.txt ./
RUN ["python3", "install.py", "predict.txt", "--wheels", "wheels", "--target", "/opt/videolift/lib"]

FROM ${BASE_IMAGE} AS libraries
USER root
COPY --from=install /opt/videolift/lib /opt/videolift/lib
ENV PYTHONPATH=${PYTHONPATH:+${PYTHONPATH}:}/opt/videolift/lib PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A base image's own program is not ours: what runs here is said when the container is started.
ENTRYPOINT []
CMD []
WORKDIR /

FROM libraries AS job
COPY src/videolift /opt/videolift/src/videolift
ENV PYTHONPATH=/opt/videolift/src:${PYTHONPATH}
ENTRYPOINT ["python3", "-m", "videolift.entry"]
