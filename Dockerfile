# seg3d with its web app. Build:  docker build -t seg3d .
# for CUDA:                       docker build -t seg3d --build-arg TORCH=cu130 .
FROM python:3.11-slim-bookworm AS build
# which build of torch: cpu, or the CUDA version of the driver, such as cu130
ARG TORCH=cpu
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
RUN pip install --constraint constraints.txt --index-url https://download.pytorch.org/whl/${TORCH} --extra-index-url https://pypi.org/simple torch
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY seg3d seg3d
RUN pip install --constraint constraints.txt ".[serve]"
# NiiVue for the viewer; without it its pages browse slices
RUN cd / && (python -m seg3d.reporting.viewer.fetch || echo "no NiiVue: viewer pages will browse slices")

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home seg3d && install -d -o seg3d /mlflow /runs
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib
USER seg3d
WORKDIR /home/seg3d
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["seg3d"]
CMD ["serve", "--help"]
