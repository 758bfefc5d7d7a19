# One image for every service of Citywatch; docker-compose.yml names the command of each.

FROM python:3.12.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
RUN python -m venv /opt/build && python -m venv --without-pip /opt/citywatch
# The locks come first: as long as they stand, these layers are not built again.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN /opt/build/bin/pip install --quiet --require-hashes --only-binary :all: \
      --requirement requirements/build.txt
# Wheels only, so that no compiler is needed; the one package without a wheel is plain Python, and
# is built with the locked tools instead of whatever is newest.
RUN /opt/build/bin/pip wheel --quiet --require-hashes --no-build-isolation \
      --only-binary :all: --no-binary grafana-api-client \
      --wheel-dir /wheels --requirement requirements/runtime.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY ingest ingest
COPY detectors detectors
COPY storage storage
COPY streams streams
COPY paging paging
COPY dashboards dashboards
COPY simulators simulators
COPY citywatch citywatch
RUN /opt/build/bin/pip wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/build/bin/pip --python /opt/citywatch/bin/python install --quiet --no-index --no-deps \
      /wheels/*.whl

FROM python:3.12.13-slim-bookworm
LABEL org.opencontainers.image.title="Citywatch" \
      org.opencontainers.image.licenses="Apache-2.0"
# pip would only help an intruder; a number as user lets the engine see that it is not root.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
 && useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin citywatch
COPY --from=build /opt/citywatch /opt/citywatch
COPY deploy/connected.py /opt/citywatch/connected.py
ENV PATH=/opt/citywatch/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
# Compose puts a small tmpfs here; the rest cannot be written to.
WORKDIR /tmp
ENTRYPOINT ["citywatch"]
