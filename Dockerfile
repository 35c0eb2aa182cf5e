# The connector as Airbyte runs it. Build: docker build -t source-timescaledb:0.1.0 .

FROM node:24-slim AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
RUN npm ci
COPY tsconfig.json ./
COPY src ./src
RUN npm run build
# What the connector needs to run, and nothing else.
RUN npm prune --omit=dev

FROM node:24-slim
# The platform runs connectors as user 1000; the image has one under another name.
RUN groupmod --new-name airbyte node \
  && usermod --login airbyte --home /home/airbyte --move-home node \
  && mkdir -p /airbyte/integration_code \
  && chown airbyte:airbyte /airbyte /airbyte/integration_code
WORKDIR /airbyte/integration_code
COPY --from=build /build/node_modules ./node_modules
COPY --from=build /build/dist ./dist
# The program reads both from the folder above its own.
COPY package.json spec.json LICENSE ./
USER airbyte

LABEL io.airbyte.name="source-timescaledb"
LABEL io.airbyte.version="0.1.0"
# The same words twice: the platform takes the variable, docker run the entry point.
ENV AIRBYTE_ENTRYPOINT="node /airbyte/integration_code/dist/main.js"
ENTRYPOINT ["node", "/airbyte/integration_code/dist/main.js"]
