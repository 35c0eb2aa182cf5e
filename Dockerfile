# The connector as Airbyte runs it. Build: docker build -t source-timescaledb:0.1.0 .
# `npm run image` builds it, with Docker or without, and tries it.

# Anything with Node 24, npm, a shell and a user 1000 called `node`.
ARG BASE_IMAGE=node:24-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
# Behind a proxy that opens TLS: docker build --secret id=ca,src=FILE_WITH_ITS_CERTIFICATE
RUN --mount=type=secret,id=ca \
  if [ -f /run/secrets/ca ]; then export NODE_EXTRA_CA_CERTS=/run/secrets/ca; fi; \
  npm ci --ignore-scripts
COPY tsconfig.json ./
COPY src ./src
# What the connector needs to run, and nothing else.
RUN npm run build && npm prune --omit=dev --ignore-scripts --offline \
  && find dist node_modules -name '*.map' -delete \
  && find node_modules -name '*.ts' -delete

FROM ${BASE_IMAGE}
# The platform runs connectors as user 1000; the base image has one under another name.
RUN groupmod --new-name airbyte node \
  && usermod --login airbyte --home /home/airbyte --move-home node \
  && install --directory --owner=airbyte --group=airbyte /airbyte /secrets /config /airbyte/integration_code
WORKDIR /airbyte/integration_code
COPY --from=build /build/node_modules ./node_modules
COPY --from=build /build/dist ./dist
# The program reads the first two from the folder above its own.
COPY package.json spec.json LICENSE docker/source-timescaledb ./
# A number, so that a platform that demands "not root" sees that it is not.
USER 1000:1000

LABEL io.airbyte.name="source-timescaledb"
LABEL io.airbyte.version="0.1.0"
# The same words twice: the platform takes the variable, docker run the entry point.
ENV AIRBYTE_ENTRYPOINT="/airbyte/integration_code/source-timescaledb"
ENTRYPOINT ["/airbyte/integration_code/source-timescaledb"]
