# One node of a consortium. compose.yaml starts four of them on one machine.
#
# The plain torch of the package index brings CUDA along. Where the trainer has no GPU, an index
# with CPU builds (PyTorch's "Get started" page names it) makes the image a quarter as large:
#     docker build --build-arg TORCH_INDEX=INDEX_URL -t swarm .

# Where packages are installed. Should one need a compiler on your processor, it is added here,
# and is not in the image that runs.
FROM python:3.12-slim AS build

RUN python -m venv /opt/swarm
ENV PATH=/opt/swarm/bin:$PATH
ARG TORCH_INDEX=""
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
COPY pyproject.toml README.md LICENSE /src/
COPY substitutes /src/substitutes
COPY swarm /src/swarm
RUN pip install --no-cache-dir /src

FROM python:3.12-slim

# A node needs no privilege: it binds a high port and writes to /node. The directories exist here
# so that a new volume mounted on one of them belongs to the same user.
RUN useradd --create-home --uid 10001 swarm \
    && install -d -o swarm -g swarm -m 700 /node \
        /nodes/cleveland /nodes/budapest /nodes/zurich-basel /nodes/long-beach

COPY --from=build /opt/swarm /opt/swarm
COPY examples /examples

USER swarm
WORKDIR /node
ENV PATH=/opt/swarm/bin:$PATH SWARM_NODE=/node PYTHONUNBUFFERED=1
EXPOSE 4001
CMD ["swarm", "node", "start", "/node"]
