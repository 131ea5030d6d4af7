# A small image with the CPU build of alambic.
#
#   docker build -t alambic --build-arg COMMIT=$(git rev-parse --short=9 HEAD) .
#   docker run --rm -it -v "$PWD:/data" --user "$(id -u):$(id -g)" alambic run recipe.yaml
#
# Not built in CI; see docs/install.md.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY Cargo.toml Cargo.lock build.rs ./
COPY src src
COPY benches benches
# Commit of the source: the image is built without the history that the build otherwise reads it from.
ARG COMMIT=""
RUN ALAMBIC_COMMIT=$COMMIT cargo build --release --locked --bin alambic

FROM debian:bookworm-slim
COPY --from=build /source/target/release/alambic /usr/local/bin/alambic
COPY LICENSE /usr/share/doc/alambic/LICENSE
# Recipes and their paths are mounted here; exit code 130 tells a stop by a signal, as outside.
WORKDIR /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["alambic"]
CMD ["--help"]
