/// What a token allows; one that allows more allows less, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    Read,
    /// To say what happened.
    Write,
    /// To change plugins, and all else.
    Admin,
}

impl Right {
    /// From least to most.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// Of its token, in the data directory.
    pub fn file_name(self) -> String {
        format!("{}.token", self.as_str())
    }
}
