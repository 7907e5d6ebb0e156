"""What people judge of a run, and what they said: pairs of answers to compare, and a sample of synthetic text to check.

    RUN/annotations/
      pairs.jsonl        pairs of answers, with the models that gave them
      pairs-NAME.jsonl   what the annotator NAME said of them
      check.jsonl        the sample of synthetic text that people check
      check-NAME.jsonl   what NAME said of it

Files only grow: a judgement that is taken back is followed by another one.
"""
