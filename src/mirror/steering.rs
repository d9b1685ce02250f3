//! What is held back on its way to a region, by whom and since when: pauses and changed limits.
//!
//! The configuration says how it begins (`paused`, `paused_topics`, the rate limits); an operator's word overrides that until it is taken back. It is in memory:
//! after a restart the configuration holds again. A region's task hears of it through a watch channel and never asks back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config;
use crate::journal::now_ms;
use crate::lag::Hold;

/// Who holds back what the configuration holds back.
const CONFIGURATION: &str = "the configuration";

/// What an operator has said of something that the configuration has an opinion of, too.
#[derive(Clone, Debug, Default, PartialEq)]
enum Said {
    /// Nothing: as configured.
    #[default]
    Nothing,
    /// Hold it back.
    Pause(Hold),
    /// Let it go, whatever is configured.
    Resume,
}

impl Said {
    fn over(&self, configured: Option<Hold>) -> Option<Hold> {
        match self {
            Said::Nothing => configured,
            Said::Pause(hold) => Some(hold.clone()),
            Said::Resume => None,
        }
    }
}

/// What is paused on its way to a region.
#[derive(Clone, Debug, Default)]
pub struct Steering {
    paused: bool,
    paused_topics: Vec<config::TopicPattern>,
    /// When the configuration began to hold.
    configured_at_ms: u64,
    region: Said,
    topics: BTreeMap<Arc<str>, Said>,
}

impl Steering {
    /// As a region is configured.
    pub fn new(region: &config::Region) -> Self {
        Self {
            paused: region.paused,
            paused_topics: region.paused_topics.clone(),
            configured_at_ms: now_ms(),
            region: Said::Nothing,
            topics: BTreeMap::new(),
        }
    }

    /// The region is configured anew. An operator's word holds on, unless the configuration has changed its own about the same thing.
    pub fn configure(&mut self, region: &config::Region) {
        let new = Self::new(region);
        if self.paused != new.paused {
            (self.paused, self.configured_at_ms, self.region) = (new.paused, new.configured_at_ms, Said::Nothing);
        }
        if self.paused_topics != new.paused_topics {
            (self.paused_topics, self.configured_at_ms) = (new.paused_topics, new.configured_at_ms);
            self.topics.clear();
        }
    }

    /// Holds back the region, or one topic.
    pub fn pause(&mut self, topic: Option<&str>, hold: Hold) {
        self.say(topic, Said::Pause(hold));
    }

    /// Lets the region, or one topic, go on.
    pub fn resume(&mut self, topic: Option<&str>) {
        self.say(topic, Said::Resume);
    }

    fn say(&mut self, topic: Option<&str>, said: Said) {
        match topic {
            Some(topic) => drop(self.topics.insert(Arc::from(topic), said)),
            None => self.region = said,
        }
    }

    fn configured(&self) -> Hold {
        Hold { since_ms: self.configured_at_ms, by: CONFIGURATION.to_owned() }
    }

    /// Who holds back the whole region, if somebody does.
    pub fn region(&self) -> Option<Hold> {
        self.region.over(self.paused.then(|| self.configured()))
    }

    /// Who holds back a topic by itself, if somebody does; the region may be held back beside that.
    pub fn topic(&self, topic: &str) -> Option<Hold> {
        let configured = self.paused_topics.iter().any(|pattern| pattern.matches(topic));
        let configured = configured.then(|| self.configured());
        match self.topics.get(topic) {
            Some(said) => said.over(configured),
            None => configured,
        }
    }

    /// Who holds back the streams of a topic, if somebody does.
    pub fn holds(&self, topic: &str) -> Option<Hold> {
        self.region().or_else(|| self.topic(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(keys: &str) -> config::Region {
        toml::from_str(&format!("name = \"us\"\nbootstrap_servers = [\"us:9092\"]\n{keys}")).expect("a region")
    }

    fn by(name: &str) -> Hold {
        Hold { since_ms: 7, by: name.to_owned() }
    }

    fn holder(hold: Option<Hold>) -> Option<String> {
        hold.map(|hold| hold.by)
    }

    #[test]
    fn a_topic_waits_for_the_region_and_for_itself() {
        let mut steering = Steering::new(&region(""));
        assert_eq!(steering.holds("orders"), None);
        steering.pause(Some("orders"), by("ann"));
        steering.pause(None, by("bob"));
        assert_eq!(holder(steering.holds("orders")).as_deref(), Some("bob"));
        assert_eq!(holder(steering.holds("clicks")).as_deref(), Some("bob"));
        steering.resume(None);
        assert_eq!(holder(steering.holds("orders")).as_deref(), Some("ann"), "its own pause stays");
        assert_eq!(steering.holds("clicks"), None);
        steering.resume(Some("orders"));
        assert_eq!(steering.holds("orders"), None);
    }

    #[test]
    fn an_operators_word_overrides_the_configuration_until_that_changes() {
        let mut steering = Steering::new(&region("paused_topics = [\"big-.*\"]"));
        assert_eq!(holder(steering.holds("big-one")).as_deref(), Some(CONFIGURATION));
        steering.resume(Some("big-one"));
        steering.pause(Some("orders"), by("ann"));
        assert_eq!((steering.holds("big-one"), holder(steering.holds("orders"))), (None, Some("ann".into())));
        // Something else of the region has changed: nothing of this does.
        steering.configure(&region("paused_topics = [\"big-.*\"]\nwindow = \"1 MiB\""));
        assert_eq!((steering.holds("big-one"), holder(steering.holds("orders"))), (None, Some("ann".into())));
        steering.configure(&region("paused_topics = [\"big-.*\", \"clicks\"]"));
        assert_eq!(holder(steering.holds("big-one")).as_deref(), Some(CONFIGURATION));
        assert_eq!(steering.holds("orders"), None);
        steering.configure(&region("paused = true"));
        assert_eq!(holder(steering.holds("orders")).as_deref(), Some(CONFIGURATION));
        steering.resume(None);
        assert_eq!(steering.holds("orders"), None);
        steering.configure(&region("paused = true"));
        assert_eq!(steering.holds("orders"), None, "nothing has changed");
    }
}
