# The relay as an image: hash-locked libraries, nothing to build with, no root, no capabilities, a read-only root will do.
# BASE must bring Python 3.11 or newer with venv, and be of Debian's family (apt) unless it has tini already.
ARG BASE=python:3.13-slim

FROM ${BASE} AS builder
WORKDIR /build
COPY requirements/image.txt requirements/supply-chain.txt requirements/
# Two environments: the one that ships has no pip, the other one is left behind with this stage.
RUN python3 -m venv /build/tools && \
    python3 -m venv --without-pip /opt/relay && \
    /build/tools/bin/pip --disable-pip-version-check --python /opt/relay/bin/python install \
        --no-cache-dir --require-hashes --only-binary :all: -r requirements/image.txt && \
    /build/tools/bin/pip --disable-pip-version-check install \
        --no-cache-dir --require-hashes --only-binary :all: -r requirements/supply-chain.txt
COPY pyproject.toml LICENSE ./
COPY relay/ relay/
# Bytecode is made here: where the root is read-only it could not be made later, and every command would compile anew.
RUN site=$(/opt/relay/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
    cp -R relay "$site/relay" && \
    printf '#!/opt/relay/bin/python\nimport sys\nfrom relay.__main__ import main\nsys.exit(main())\n' > /opt/relay/bin/relay && \
    chmod 755 /opt/relay/bin/relay && \
    ln -s relay /opt/relay/bin/sendmail && \
    /opt/relay/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$site" && \
    mkdir -p /opt/relay/share/relay && \
    cp LICENSE /opt/relay/share/relay/ && \
    /build/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
        --spec-version 1.6 -o /opt/relay/share/relay/sbom.cdx.json /opt/relay/bin/python

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG UID=10025
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="A local SMTP relay that logs in upstream with each sender's own, encrypted credentials" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      io.authrelay.sbom="/opt/relay/share/relay/sbom.cdx.json" \
      io.authrelay.sbom.format="application/vnd.cyclonedx+json; version=1.6"
# tini is process 1: it reaps what `exec` sessions leave behind, and a SIGTERM in the first second counts, too.
RUN command -v tini >/dev/null || { \
        apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/*; } ; \
    tini --version && \
    groupadd --gid ${UID} relay && \
    useradd --uid ${UID} --gid ${UID} --no-create-home --home-dir /var/lib/relay --shell /usr/sbin/nologin relay && \
    install -d -o ${UID} -g ${UID} -m 0700 /var/lib/relay && \
    find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=builder /opt/relay /opt/relay
ENV PATH=/opt/relay/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    RELAY_DATA_DIR=/var/lib/relay \
    RELAY_LOG__FORMAT=json
# A number, so that an orchestrator can see that it is not root.
USER ${UID}:${UID}
WORKDIR /var/lib/relay
VOLUME /var/lib/relay
EXPOSE 2525 8025
# Asked over the control socket: the console's port, its TLS, or that it is switched off make no difference.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["relay", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "-s", "--", "relay"]
CMD ["serve"]
