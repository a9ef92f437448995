"""`cmb` as on a system that lacks what only Linux has: python -m tests.support.other_system detect SCAN ...

Removes what Windows or macOS do not offer and restricts what Windows offers in part, then runs the command. It shows that nothing
else is needed of the system; it does not show what other systems' own libraries do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys

MISSING_IN_OS = (
    *("sched_getaffinity", "sysconf", "pread", "pwrite", "fork", "getuid", "geteuid", "killpg", "statvfs", "posix_fadvise"),
    *("O_CLOEXEC", "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW", "EX_OK"),
)
MISSING_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "posix_ipc")


def restrict() -> None:
    """Take away, for this process, what other systems lack."""
    access = fcntl.F_GETFL, fcntl.fcntl
    for name in MISSING_IN_OS:
        if hasattr(os, name):
            delattr(os, name)
    for name in MISSING_MODULES:
        sys.modules[name] = None
    open_file, sync, replace = os.open, os.fsync, os.replace

    def open_no_folder(path, flags, *args, **kwargs):
        if not kwargs.get("dir_fd") and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return open_file(path, flags, *args, **kwargs)

    def sync_what_is_written(descriptor):
        get_flags, control = access
        if control(descriptor, get_flags) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        sync(descriptor)

    def replace_no_folder(source, target, **kwargs):
        if os.path.isdir(target):
            raise PermissionError(errno.EACCES, "Access is denied", target)
        replace(source, target, **kwargs)

    os.open, os.fsync, os.replace = open_no_folder, sync_what_is_written, replace_no_folder


if __name__ == "__main__":
    restrict()
    from cmb_models.cli import main

    main()
