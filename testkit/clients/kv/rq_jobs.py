"""RQ: jobs that a worker of this process carries out, one of which fails, and what comes of them."""

import sys

import redis
from rq import Queue, SimpleWorker

from checks import HOST, PORT, end, same

sys.path.insert(0, ".")


def main():
    import rq_work

    connection = redis.Redis(HOST, PORT)
    queue = Queue(connection=connection)
    jobs = [queue.enqueue(rq_work.double, number) for number in range(20)]
    broken = queue.enqueue(rq_work.fail)
    after = queue.enqueue(rq_work.double, 100, depends_on=jobs[0])
    same(queue.count, 21)
    SimpleWorker([queue], connection=connection).work(burst=True)
    same([job.return_value(refresh=True) for job in jobs], [number * 2 for number in range(20)])
    same(broken.get_status(refresh=True).value, "failed")
    same(after.return_value(refresh=True), 200)
    same(queue.failed_job_registry.count, 1)
    same(queue.count, 0)
    end()


main()
