"""The instructor's side: problem sets from text, grading with nbgrader, the sample class.

- `notebook`: reads `solutions/TOPIC/TOPIC.md`, checks its rules, builds nbgrader's source notebook.
- `release`: makes `exercises/TOPIC/` from it with nbgrader, or says where the two differ.
- `preprocessors`: the steps of nbgrader that this course replaces; see `nbgrader_config.py`.
- `course`: runs nbgrader in a course folder from Python.
- `classroom`, `register`: a whole class on workers; what has been graded, and how.
- `judge`, `sandbox`: points decided here, students' code behind walls.
- `feedback`, `report`: what a student reads first, and what an instructor does.
- `cast`, `sample_class`: invented students with known scores, graded end to end.
"""
