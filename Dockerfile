# sharpmask on a CPU: masks for the photos of a mounted folder.
#
#   docker build -t sharpmask .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" sharpmask propose photos --output out
#   docker run --rm -p 8008:8008 sharpmask serve --host 0.0.0.0 --port 8008 --token SECRET
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[openvino,serve]'

FROM python:3.11-slim
RUN useradd --create-home --uid 1000 sharpmask
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --no-index /wheels/*.whl && rm -rf /wheels
# Any user may write to the cache; without it an exported model lasts as long as its process.
ENV XDG_CACHE_HOME=/tmp/cache PYTHONUNBUFFERED=1
USER 1000
WORKDIR /work
ENTRYPOINT ["sharpmask"]
CMD ["--help"]
