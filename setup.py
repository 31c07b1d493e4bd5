"""What is installed: the package, and the two folders of templates as its data."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["amphora_agent", "amphora_agent.*"]),
        "amphora_agent.haproxy_templates",
        "amphora_agent.systemd",
    ],
    package_dir={
        "amphora_agent.haproxy_templates": "haproxy_templates",
        "amphora_agent.systemd": "systemd",
    },
    package_data={
        "amphora_agent": ["py.typed"],
        "amphora_agent.haproxy_templates": ["*.j2"],
        "amphora_agent.systemd": ["*.service", "*.sysusers", "*.j2"],
    },
)
