# One build, five images. docker-compose.yml builds them; by hand: docker build --target pixel .
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,id=email-tracker-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=email-tracker-target,target=/src/target,sharing=locked <<COMMANDS
set -eu
# cargo goes by time stamps, and the cached target may be newer than files that an older checkout brings.
find crates docs proto services -type f -exec touch {} +
cargo build --release --locked -p pixel -p recorder -p dashboard -p email-tracker
install -D -t /out target/release/pixel target/release/recorder target/release/dashboard target/release/email-tracker
COMMANDS

FROM debian:bookworm-slim AS base
COPY --from=build --link /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --link LICENSE NOTICE /usr/share/doc/email-tracker/
ENV LISTEN=0.0.0.0 ADMIN_PORT=9090
USER 65532:65532

FROM base AS pixel
# A new volume takes over this folder's owner.
USER root
RUN install -d -o 65532 -g 65532 -m 700 /var/lib/email-tracker/spool
USER 65532:65532
ENV SPOOL_DIR=/var/lib/email-tracker/spool
COPY --from=build --link /out/pixel /usr/local/bin/pixel
EXPOSE 8081 9090
ENTRYPOINT ["pixel"]

FROM base AS recorder
COPY --from=build --link /out/recorder /usr/local/bin/recorder
EXPOSE 50051 9090
ENTRYPOINT ["recorder"]

FROM base AS dashboard
COPY --from=build --link /out/dashboard /usr/local/bin/dashboard
EXPOSE 8082 9090
ENTRYPOINT ["dashboard"]

FROM base AS email-tracker
COPY --from=build --link /out/email-tracker /usr/local/bin/email-tracker
ENTRYPOINT ["email-tracker"]

# PostgreSQL's own programs copy its databases; they may not be older than the server.
FROM postgres:18 AS backup
COPY --from=build --link /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --link LICENSE NOTICE /usr/share/doc/email-tracker/
COPY --from=build --link /out/email-tracker /usr/local/bin/email-tracker
RUN install -d -o 65532 -g 65532 -m 700 /backups
ENV BACKUP_DIR=/backups BACKUP_METRICS_DIR=/metrics
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["email-tracker"]
