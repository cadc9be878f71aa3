//! nginx with `empty_gif`: what serving a constant GIF costs on this machine.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::Context;
use test_support::{Spawned, eventually, free_port};
use tokio::net::TcpStream;

/// One worker for each core, no log, and the headers that the pixel sends.
const CONFIGURATION: &str = r#"
daemon off;
worker_processes auto;
pid FOLDER/nginx.pid;
error_log FOLDER/nginx.log;
worker_rlimit_nofile 20000;
events { worker_connections 16384; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path FOLDER/body;
  proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/fastcgi;
  uwsgi_temp_path FOLDER/uwsgi;
  scgi_temp_path FOLDER/scgi;
  server {
    listen ADDRESS reuseport;
    location / {
      empty_gif;
      add_header Cache-Control "no-store, no-cache, must-revalidate, max-age=0";
      add_header Pragma no-cache;
      add_header Expires 0;
    }
  }
}
"#;

/// A running nginx.
pub(super) struct Nginx {
    pub(super) address: SocketAddr,
    process: Spawned,
}

impl Nginx {
    pub(super) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let configuration = CONFIGURATION
            .replace("FOLDER", folder.to_str().context("a path in UTF-8")?)
            .replace("ADDRESS", &address.to_string());
        let file = folder.join("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new("nginx");
        let process = Spawned::start(
            command
                .arg("-c")
                .arg(&file)
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        );
        let mut nginx = Self { address, process };
        eventually("nginx listens (apt-get install nginx-light)", async || {
            let ended = nginx.process.try_exit();
            assert!(ended.is_none(), "nginx ended: {}", nginx.process.stderr());
            TcpStream::connect(address).await.ok()
        })
        .await;
        Ok(nginx)
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}
