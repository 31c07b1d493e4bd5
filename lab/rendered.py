"""All files of one haproxy process, as the agent makes them one by one."""

from collections.abc import Mapping
from itertools import groupby

from amphora_agent.loadbalancer import render as loadbalancer_render
from amphora_agent.loadbalancer.render import Places
from amphora_agent.loadbalancer.translate import names
from amphora_agent.loadbalancer.translate.to_haproxy import Process


def render(process: Process, places: Places) -> Mapping[str, str]:
    """Return the files of the configuration directory by name."""
    files = {names.PROCESS: loadbalancer_render.render_process(process, places)}
    for listener in process.frontends:
        files[names.listener(listener.id)] = loadbalancer_render.render_listener(listener, places)
        if listener.allowed is not None:
            files[names.allowed(listener.id)] = loadbalancer_render.render_allowed(listener.allowed)
    for pool_id, pools in groupby(process.backends, key=lambda backend: backend.pool_id):
        files[names.pool(pool_id)] = loadbalancer_render.render_pool(tuple(pools), places)
    return files
