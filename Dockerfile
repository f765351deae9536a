# One node of a consortium. compose.yaml starts four of them on one machine.
#
# The plain torch of the package index brings CUDA along. Where the trainer has no GPU, an index
# with CPU builds (PyTorch's "Get started" page names it) makes the image a quarter as large:
#     docker build --build-arg TORCH_INDEX=INDEX_URL -t swarm .

FROM python:3.12-slim

ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0

# A node needs no privilege: it binds a high port and writes to /node. The directories exist here
# so that a new volume mounted on one of them belongs to the same user.
RUN useradd --create-home --uid 10001 swarm \
    && install -d -o swarm -g swarm -m 700 /node \
        /nodes/cleveland /nodes/budapest /nodes/zurich_basel /nodes/long_beach

COPY pyproject.toml README.md LICENSE /src/
COPY swarm /src/swarm
RUN pip install --no-cache-dir /src && rm -r /src
COPY examples /examples

USER swarm
WORKDIR /node
ENV SWARM_NODE=/node PYTHONUNBUFFERED=1
EXPOSE 4001
CMD ["swarm", "node", "start", "/node"]
