//! A real Chromium without a window, driven over its DevTools protocol.
//!
//! # References
//! <https://chromedevtools.github.io/devtools-protocol/>

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::guard::{Guarded, TempDir, tail};
use crate::packages;

const PROGRAM: &str = "chromium";
const START_DEADLINE: Duration = Duration::from_secs(60);
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// One page in a browser of its own. Killed when it is dropped.
#[derive(Debug)]
pub struct Browser {
    socket: WebSocketStream<TcpStream>,
    session: String,
    calls: u64,
    /// What the console said at warning or error, and exceptions that nobody caught.
    complaints: Vec<String>,
    _process: Guarded,
    _dir: TempDir,
}

impl Browser {
    /// Starts Chromium; installs it first where that is allowed ([`packages::ensure`]).
    ///
    /// # Errors
    /// When there is none, or it does not answer within a minute.
    pub async fn start() -> Result<Self> {
        packages::ensure(PROGRAM, PROGRAM)?;
        let dir = TempDir::new("diffluent-browser-")?;
        let (profile, log) = (dir.path().join("profile"), dir.path().join("log"));
        let mut command = Command::new(PROGRAM);
        command.args([
            "--headless=new",
            "--remote-debugging-port=0",
            "--no-first-run",
            "--disable-gpu",
            "--hide-scrollbars",
        ]);
        // Nothing but the page may use the network.
        command.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
        ]);
        command.args(["--disable-dev-shm-usage", "--force-color-profile=srgb", "--lang=en"]);
        if rustix::process::getuid().is_root() {
            // Chromium's sandbox refuses to run as root. It shows our own page only.
            command.arg("--no-sandbox");
        }
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let process = Guarded::spawn("chromium", command, &log)?;
        let file = profile.join("DevToolsActivePort");
        let since = Instant::now();
        let (port, path) = loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            if let Some((port, path)) = text.split_once('\n').filter(|(_, path)| !path.is_empty()) {
                break (port.trim().parse::<u16>().context("an odd port")?, path.trim().to_owned());
            }
            if since.elapsed() > START_DEADLINE {
                bail!("chromium does not answer after {START_DEADLINE:?}:\n{}", tail(&log));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await.context("chromium's port")?;
        let url = format!("ws://127.0.0.1:{port}{path}");
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.context("chromium's WebSocket")?;
        let mut browser =
            Self { socket, session: String::new(), calls: 0, complaints: Vec::new(), _process: process, _dir: dir };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().context("no session")?.to_owned();
        for domain in ["Page", "Runtime", "Log", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(browser)
    }

    /// A call of the protocol. What the page says meanwhile is kept for [`Browser::complaints`].
    ///
    /// # Errors
    /// When Chromium refuses it or does not answer within 30 seconds.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.calls += 1;
        let id = self.calls;
        let mut request = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            request["sessionId"] = Value::from(self.session.as_str());
        }
        let asked = tokio::time::timeout(CALL_DEADLINE, async {
            self.socket.send(Message::text(request.to_string())).await?;
            loop {
                let message = self.socket.next().await.context("chromium has gone")??;
                let Message::Text(text) = message else { continue };
                let message: Value = serde_json::from_str(&text)?;
                if message["id"] == id {
                    return anyhow::Ok(message);
                }
                self.complaints.extend(complaint(&message));
            }
        });
        let answer = asked.await.with_context(|| format!("{method}: no answer in {CALL_DEADLINE:?}"))??;
        if answer["error"].is_object() {
            bail!("{method}: {}", answer["error"]);
        }
        Ok(answer["result"].clone())
    }

    /// Shows a page; it may still be loading.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn open(&mut self, url: &str) -> Result<()> {
        let shown = self.call("Page.navigate", json!({"url": url})).await?;
        match shown["errorText"].as_str() {
            Some(error) => bail!("{url}: {error}"),
            None => Ok(()),
        }
    }

    /// The value of an expression in the page; a promise is waited for.
    ///
    /// # Errors
    /// When it throws.
    pub async fn eval(&mut self, expression: &str) -> Result<Value> {
        let params =
            json!({"expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true});
        let answer = self.call("Runtime.evaluate", params).await?;
        if answer["exceptionDetails"].is_object() {
            bail!("{expression}: {}", answer["exceptionDetails"]["exception"]["description"]);
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    /// When it is not within `patience`: with the page's text.
    pub async fn until(&mut self, expression: &str, patience: Duration) -> Result<()> {
        let since = Instant::now();
        while self.eval(&format!("Boolean({expression})")).await.unwrap_or_default() != true {
            if since.elapsed() > patience {
                let text = self.eval("document.body.innerText").await?;
                bail!(
                    "not true after {patience:?}: {expression}\n{}\n{:?}",
                    text.as_str().unwrap_or_default(),
                    self.complaints
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Presses a key, such as `Tab`, `Enter` or `Escape`.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn press(&mut self, key: &str) -> Result<()> {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            _ => bail!("the key {key} is not known here"),
        };
        let mut down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if key == "Enter" {
            // Only a key with a character activates a button.
            down["text"] = Value::from("\r");
        }
        self.call("Input.dispatchKeyEvent", down).await?;
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up).await.map(drop)
    }

    /// The window's size in CSS pixels, and whether the system prefers dark.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn look(&mut self, width: u32, height: u32, dark: bool) -> Result<()> {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await?;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await.map(drop)
    }

    /// What assistive technology is told: role and name of every part of the page that has both.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn accessible(&mut self) -> Result<Vec<(String, String)>> {
        let tree = self.call("Accessibility.getFullAXTree", json!({})).await?;
        let nodes = tree["nodes"].as_array().context("no tree")?;
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = nodes.iter().filter(|node| node["ignored"] != true);
        Ok(nodes.map(|node| (text(&node["role"]), text(&node["name"]))).collect())
    }

    /// Writes what the window shows to a PNG file.
    ///
    /// # Errors
    /// When the file can't be written.
    pub async fn picture(&mut self, file: &Path) -> Result<()> {
        let picture = self.call("Page.captureScreenshot", json!({"format": "png"})).await?;
        let text = picture["data"].as_str().context("no picture")?;
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).context("the picture is not base64")?;
        std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What the console said at warning or error since the last time, and exceptions that nobody caught.
    pub fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }
}

/// What an event complains of, if it does.
fn complaint(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
        "Runtime.consoleAPICalled" => ["error", "warning", "assert"]
            .contains(&params["type"].as_str()?)
            .then(|| format!("console: {}", params["args"])),
        "Log.entryAdded" => {
            let entry = &params["entry"];
            ["error", "warning"].contains(&entry["level"].as_str()?).then(|| {
                let part = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
                format!("{}: {} {}", part("source"), part("text"), part("url"))
            })
        }
        _ => None,
    }
}
