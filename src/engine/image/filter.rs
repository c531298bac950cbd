//! Which images are meant: docker's filters for `images` and `image prune`.

use jiff::Timestamp;

use super::Engine;
use crate::{
    error::{Error, Result},
    image::{Image, NameRecord},
};

/// Every filter of one command.
#[derive(Debug, Clone, Default)]
pub struct ImageFilters(Vec<Filter>);

#[derive(Debug, Clone)]
enum Filter {
    Dangling(bool),
    /// Chooses names rather than images.
    Reference(String),
    Label {
        key: String,
        value: Option<String>,
        wanted: bool,
    },
    /// Made before, or after, this time.
    Before(Timestamp),
    Since(Timestamp),
}

/// Reads a moment as the user typed it.
pub type Moment<'a> = &'a dyn Fn(&str) -> Result<Timestamp>;

impl Engine {
    /// Reads filters of the kinds that the command has, which are `known`.
    pub fn image_filters(
        &self,
        typed: &[(String, String)],
        known: &[&str],
        moment: Moment<'_>,
    ) -> Result<ImageFilters> {
        let one = |(key, value): &(String, String)| {
            if !known.contains(&key.as_str()) {
                return Err(Error::invalid(format!("invalid filter '{key}'"))
                    .hint(format!("here one can filter by {}", known.join(", "))));
            }
            self.image_filter(key, value, moment)
        };
        typed.iter().map(one).collect::<Result<_>>().map(ImageFilters)
    }

    fn image_filter(&self, key: &str, value: &str, moment: Moment<'_>) -> Result<Filter> {
        Ok(match key {
            "dangling" => match value {
                "true" | "1" => Filter::Dangling(true),
                "false" | "0" => Filter::Dangling(false),
                _ => return Err(Error::invalid(format!("invalid filter 'dangling={value}'"))),
            },
            "reference" => Filter::Reference(value.to_owned()),
            "label" => label(value, true),
            "label!" => label(value, false),
            "before" => Filter::Before(made(&self.image(value)?)),
            "since" => Filter::Since(made(&self.image(value)?)),
            "until" => Filter::Before(moment(value)?),
            _ => return Err(Error::invalid(format!("invalid filter '{key}'"))),
        })
    }
}

fn label(text: &str, wanted: bool) -> Filter {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    Filter::Label { key: key.to_owned(), value, wanted }
}

/// When it was made. An image that does not say is as old as can be.
pub fn made(image: &Image) -> Timestamp {
    image.record.created.unwrap_or(Timestamp::UNIX_EPOCH)
}

impl ImageFilters {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The patterns for names: of several any will do.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|filter| match filter {
            Filter::Reference(pattern) => Some(pattern.as_str()),
            Filter::Dangling(_) | Filter::Label { .. } | Filter::Before(_) | Filter::Since(_) => {
                None
            }
        })
    }

    /// The `dangling` filter, if there is one.
    pub fn dangling(&self) -> Option<bool> {
        self.0.iter().find_map(|filter| match filter {
            Filter::Dangling(wanted) => Some(*wanted),
            Filter::Reference(_) | Filter::Label { .. } | Filter::Before(_) | Filter::Since(_) => {
                None
            }
        })
    }

    /// All but the `dangling` filter, where that says which images are meant at all.
    #[must_use]
    pub fn without_dangling(&self) -> Self {
        let others = self.0.iter().filter(|filter| !matches!(filter, Filter::Dangling(_)));
        Self(others.cloned().collect())
    }

    /// Whether all filters but those for names let the image through.
    pub fn admits(&self, engine: &Engine, image: &Image) -> bool {
        self.0.iter().all(|filter| filter.admits(engine, image))
    }
}

impl Filter {
    fn admits(&self, engine: &Engine, image: &Image) -> bool {
        match self {
            Self::Dangling(wanted) => image.names.is_empty() == *wanted,
            Self::Reference(_) => true,
            Self::Before(time) => made(image) < *time,
            Self::Since(time) => made(image) > *time,
            Self::Label { key, value, wanted } => {
                let config = engine.store.config(&image.record).ok();
                let labels = config
                    .and_then(|config| config.config().clone())
                    .and_then(|config| config.labels().clone())
                    .unwrap_or_default();
                let has = labels
                    .get(key)
                    .is_some_and(|have| value.as_ref().is_none_or(|want| want == have));
                has == *wanted
            }
        }
    }
}

/// Whether a name fits: `REPOSITORY` means every tag of it, `REPOSITORY:TAG` one; `*` and `?` are
/// wildcards.
pub fn fits(named: &NameRecord, wanted: &str) -> bool {
    let (repository, tag) = match wanted.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (wanted, None),
    };
    let tag_fits = tag.is_none_or(|tag| named.name.tag().is_some_and(|have| glob(tag, have)));
    // Docker matches the familiar name; a whole name is understood too.
    let fits = named.name.repository() == repository
        || glob(repository, &named.name.familiar_repository());
    tag_fits && fits
}

/// Go's `path.Match`, without classes: a star does not match a slash.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            let mut ends = ends.take_while(|at| !text[..*at].contains('/'));
            ends.any(|at| glob(rest, &text[at..]))
        }
        Some(want) => {
            let mut chars = text.chars();
            chars.next().is_some_and(|have| want == have || want == '?' && have != '/')
                && glob(&pattern[want.len_utf8()..], chars.as_str())
        }
    }
}
