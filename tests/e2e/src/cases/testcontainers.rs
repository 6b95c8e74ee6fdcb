//! Testcontainers for Python, unmodified, as a test suite uses it.

use e2e::{check::Outcome, has, same};

use crate::{
    cases::{cases, system::python},
    context::Ctx,
    runner::Case,
};

pub fn list() -> Vec<Case> {
    cases!("testcontainers", Any; web_server, network).to_vec()
}

/// The image of its reaper is nowhere at hand; it only cleans up after suites that crash.
const SETTINGS: &str = "import os\nos.environ['TESTCONTAINERS_RYUK_DISABLED'] = 'true'\nimport warnings\nwarnings.simplefilter('ignore')\n";

fn web_server(ctx: &Ctx) -> Outcome {
    let script = r#"
import urllib.request
from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs
serve = "mkdir /w; echo page > /w/index.html; echo ready; httpd -f -p 80 -h /w"
with DockerContainer("busybox").with_name(P).with_command(["sh", "-c", serve]).with_exposed_ports(80).with_env("A", "1") as it:
    wait_for_logs(it, "ready", timeout=30)
    print(it.exec("cat /w/index.html"))
    print(it.exec(["sh", "-c", "exit 3"]).exit_code)
    url = "http://127.0.0.1:%s/" % it.get_exposed_port(80)
    for attempt in range(100):
        try: print(urllib.request.urlopen(url).read()); break
        except OSError: __import__("time").sleep(0.05)
    print(it.get_logs()[0], it.get_wrapped_container().status)
print(c.containers.list(all=True, filters={"name": P}))
"#;
    let out = python(ctx, &format!("{SETTINGS}{script}"))?;
    has!(out, "ExecResult(exit_code=0, output=b'page\\n')\n3\n");
    has!(out, "b'page\\n'\nb'ready\\n'");
    same!(out.lines().last(), Some("[]"));
    Ok(())
}

fn network(ctx: &Ctx) -> Outcome {
    let script = r#"
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
with Network() as net:
    with DockerContainer("busybox").with_name(P + ".a").with_command("sleep 600").with_network(net).with_network_aliases("server") as a:
        with DockerContainer("busybox").with_name(P + ".b").with_command("sleep 600").with_network(net) as b:
            print(b.exec("ping -c1 server").exit_code, b.exec("ping -c1 " + P + ".a").exit_code, b.exec("ping -c1 nobody").exit_code != 0)
    name = net.name
print(c.networks.list(names=[name]))
"#;
    let out = python(ctx, &format!("{SETTINGS}{script}"))?;
    same!(out, "0 0 True\n[]\n");
    Ok(())
}
