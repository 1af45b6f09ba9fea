/* import_recognises.c - what is opened as a checkpoint of others. A build that reads none has this alone, to say so. */
#define _POSIX_C_SOURCE 200809L /* O_CLOEXEC */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "import.h"

bool mfi_import_recognises(const char *path)
{
    struct stat stat_;
    char magic[4] = "";
    if (stat(path, &stat_) != 0) return false;
    if (S_ISDIR(stat_.st_mode)) return true;
    if (!S_ISREG(stat_.st_mode)) return false;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    const bool gguf = read(fd, magic, sizeof magic) == (ssize_t)sizeof magic && memcmp(magic, "GGUF", 4) == 0;
    close(fd);
    return gguf;
}
