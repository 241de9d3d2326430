# Stoker's processes as one image: `docker build --tag stoker:0.1.0 .`, then `docker run stoker:0.1.0 worker`, and
# likewise beat and flower. docker-compose.yml runs them all; docs/deployment.md explains.

FROM python:3.13-slim-trixie AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY cache cache
COPY config/stoker config/stoker
COPY tasks tasks
COPY worker worker
RUN pip wheel --no-deps --wheel-dir /dist .
# The environment has no pip of its own. The wheel is named by its path: a package of that name in an index is not ours.
# Only wheels, for the image that runs has no compiler.
RUN python -m venv --without-pip /opt/stoker && \
    pip --python /opt/stoker/bin/python install --only-binary :all: "$(echo /dist/stoker-*.whl)[worker]"

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="Stoker" \
      org.opencontainers.image.description="Workers, beat and Flower of a shared cache that stays hot and honest" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --gid 10001 stoker && useradd --uid 10001 --gid stoker --no-create-home --home-dir /app stoker
COPY --from=build /opt/stoker /opt/stoker
# Modules that register loaders go to /app, by COPY in an image of your own or by a mount. Nothing is written there.
ENV PATH=/opt/stoker/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
USER 10001:10001
# A worker takes SIGTERM as: let running tasks end for STOKER_WORKER__SHUTDOWN_TIMEOUT seconds, give back the rest.
STOPSIGNAL SIGTERM
ENTRYPOINT ["stoker"]
CMD ["--help"]
