# docker build -t tablefold . && docker run --read-only --tmpfs /tmp -v $PWD/run:/served:ro -p 8000:8000 tablefold
FROM python:3.11-slim
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
# An index that has torch without CUDA, a tenth as large: docker build --build-arg PIP_EXTRA_INDEX_URL=...
ARG PIP_EXTRA_INDEX_URL
RUN pip install --no-cache-dir -c constraints.txt ".[serve]" \
    && TABLEFOLD_CACHE=/opt/tablefold tablefold warmup
ENV TABLEFOLD_CACHE=/opt/tablefold PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
# A copy of the run and its look-up tables go to /tmp, which must be writable; a token comes by TABLEFOLD_TOKEN.
ENTRYPOINT ["tablefold", "serve", "/served", "--host", "0.0.0.0"]
