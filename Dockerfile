# The grading engine for machines without Linux or bubblewrap: book/teaching.md says how to run it.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap git make \
    && rm -rf /var/lib/apt/lists/*

# The pinned versions first: they change more rarely than the code.
WORKDIR /opt/flowcourse
COPY constraints.txt pyproject.toml README.md LICENSE LICENSE-TEXT ./
COPY flowcourse flowcourse
RUN pip install --no-cache-dir -c constraints.txt '.[grading]'

# Whoever grades is not root; the course folder is mounted at /course.
RUN useradd --create-home --uid 1000 grader
USER grader
WORKDIR /course
# A checkout at /course grades with its own code and problem sets; the image has what they need.
ENV PYTHONPATH=/course
ENTRYPOINT ["flowcourse"]
CMD ["--help"]
