"""What the jobs of rq_jobs.py do."""


def double(number):
    return number * 2


def fail():
    raise ValueError("as it should")
