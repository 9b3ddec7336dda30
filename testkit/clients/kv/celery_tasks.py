"""Celery: broker and results in the store; a worker in this process carries out single tasks, a group and a chain."""

from celery import Celery, chain, group
from celery.contrib.testing.worker import start_worker

from checks import URL, end, same

app = Celery("tasks", broker=f"{URL}/1", backend=f"{URL}/2")
app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)


@app.task
def add(a, b):
    return a + b


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def stumble(self):
    if self.request.retries < 2:
        raise self.retry()
    return self.request.retries


with start_worker(app, perform_ping_check=False, pool="solo", loglevel="ERROR"):
    same(add.delay(2, 3).get(timeout=30), 5)
    same(group(add.s(number, 1) for number in range(10))().get(timeout=30), list(range(1, 11)))
    same(chain(add.s(1, 1), add.s(3), add.s(4))().get(timeout=30), 9)
    same(stumble.delay().get(timeout=30), 2)
end()
