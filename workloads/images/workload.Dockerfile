# Training pods and the MLflow server: torch, transformers, peft, deepspeed, mlflow, ray. Build from the root: make images
FROM python:3.11-slim AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /source
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY operator operator
COPY workloads workloads
RUN UV_PROJECT_ENVIRONMENT=/opt/windlass uv sync --frozen --no-default-groups --extra train --extra data --no-editable --compile-bytecode

FROM python:3.11-slim
COPY --from=build /opt/windlass /opt/windlass
ENV PATH=/opt/windlass/bin:$PATH PYTHONUNBUFFERED=1
USER 1000:1000
CMD ["python", "-m", "windlass_workloads.agent"]
