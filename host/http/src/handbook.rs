//! The handbook: the pages of `host/docs`, which `dropsonde docs` prints and `/docs` shows.

use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};

/// A page of the handbook, in Markdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandbookPage {
    /// The name, as in `dropsonde docs NAME` and `/docs/NAME`.
    pub name: &'static str,
    pub text: &'static str,
}

macro_rules! pages {
    ($($name:literal)*) => { [$(HandbookPage { name: $name, text: include_str!(concat!("../../docs/", $name, ".md")) }),*] };
}

/// All pages, in reading order.
pub const PAGES: [HandbookPage; 33] = pages! {
    "install" "getting-started" "dashboard" "plugins" "granting" "running-plugins" "procfs" "scrape" "probe" "containers"
    "instances" "history" "streams" "snapshot" "series" "promql" "alerts" "remote-write" "otlp" "longer-history"
    "fleets" "prometheus" "api" "configuration" "commands" "operating" "security" "fair-shares" "tracing" "embedding"
    "troubleshooting" "glossary" "contributing"
};

/// Returns the page of this name.
pub fn page(name: &str) -> Option<HandbookPage> {
    PAGES.into_iter().find(|page| page.name == name)
}

impl HandbookPage {
    /// Returns the title, from the first line.
    pub fn title(self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches("# ")
    }

    /// Returns the first paragraph, which says what the page answers.
    pub fn about(self) -> String {
        let about = self.text.lines().skip(1).skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty());
        about.collect::<Vec<_>>().join(" ")
    }

    /// Returns the page as HTML, without the document around it. Links to other pages lead to `/docs`; links to other
    /// files of the repository become plain text.
    pub fn html(self) -> String {
        let events: Vec<Event<'_>> = Parser::new_ext(self.text, Options::ENABLE_TABLES).collect();
        let mut out = Vec::with_capacity(events.len());
        let mut is_link = Vec::new();
        for (nth, event) in events.iter().enumerate() {
            match event {
                Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
                    let id = Some(anchor(&heading(events.get(nth + 1..).unwrap_or_default())).into());
                    let (level, classes, attrs) = (*level, classes.clone(), attrs.clone());
                    out.push(Event::Start(Tag::Heading { level, id, classes, attrs }));
                }
                Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                    let leads_to = target(dest_url);
                    is_link.push(leads_to.is_some());
                    if let Some(dest_url) = leads_to {
                        let (link_type, title, id) = (*link_type, title.clone(), id.clone());
                        out.push(Event::Start(Tag::Link { link_type, dest_url, title, id }));
                    }
                }
                Event::End(TagEnd::Link) => {
                    if is_link.pop() == Some(true) {
                        out.push(event.clone());
                    }
                }
                // The pages are Markdown alone: HTML in them is shown as text.
                Event::Html(text) | Event::InlineHtml(text) => out.push(Event::Text(text.clone())),
                event => out.push(event.clone()),
            }
        }
        let mut rendered = String::new();
        html::push_html(&mut rendered, out.into_iter());
        rendered
    }
}

/// Returns the text of a heading, from the events behind its start.
fn heading(events: &[Event<'_>]) -> String {
    let within = events.iter().take_while(|event| !matches!(event, Event::End(TagEnd::Heading(_))));
    let texts = within.filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(&**text),
        _ => None,
    });
    texts.collect()
}

/// Returns the anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Returns where a link leads from a page under `/docs`; none if the host does not have its target.
fn target<'a>(link: &CowStr<'a>) -> Option<CowStr<'a>> {
    if link.starts_with("https://") || link.starts_with('#') {
        return Some(link.clone());
    }
    let (file, anchor) = link.split_once('#').map_or((&**link, None), |(file, anchor)| (file, Some(anchor)));
    let name = file.strip_suffix(".md").filter(|name| page(name).is_some())?;
    let anchor = anchor.map(|anchor| format!("#{anchor}")).unwrap_or_default();
    Some(format!("/docs/{name}{anchor}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_file_in_the_docs_folder_is_a_page_of_the_handbook() {
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).unwrap();
        let files: BTreeSet<String> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".md"))
            .collect();
        let shown: BTreeSet<String> = PAGES.iter().map(|page| format!("{}.md", page.name)).collect();
        assert_eq!(files, shown);
        for page in PAGES {
            assert!(page.text.starts_with("# ") && page.about().ends_with('.'), "{}", page.name);
        }
    }

    #[test]
    fn links_between_pages_lead_to_docs_and_headings_have_anchors() {
        let page = HandbookPage {
            name: "x",
            text: "# A `b` & C\n\nSee [one](streams.md#slow-readers), [code](../src/lib.rs), [site](https://a.b/) and\n<b>x</b>.\n",
        };
        let html = page.html();
        assert!(html.contains(r#"<h1 id="a-b--c">"#), "{html}");
        assert!(
            html.contains(r#"<a href="/docs/streams#slow-readers">one</a>, code, <a href="https://a.b/">"#),
            "{html}"
        );
        assert!(html.contains("&lt;b&gt;x&lt;/b&gt;"), "{html}");
    }

    #[test]
    fn every_link_of_a_page_leads_to_an_existing_page_and_heading() {
        for from in PAGES {
            for link in from.html().split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
                let to = path.strip_prefix("/docs/").map_or(Some(from), page);
                let is_there = |to: HandbookPage| anchor.is_empty() || to.html().contains(&format!("id=\"{anchor}\""));
                assert!(path.starts_with("https://") || to.is_some_and(is_there), "{}: {link}", from.name);
            }
        }
    }
}
