/* Prints each transcript as its line of JSON: cc -o listen examples/listen.c && ./listen events.sock */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(int argc, char **argv) {
    static char line[256 * 1024 + 1]; /* no event is longer */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", argc > 1 ? argv[1] : "events.sock");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) return perror("connect"), 1;
    FILE *events = fdopen(fd, "r");
    while (events != NULL && fgets(line, sizeof line, events) != NULL)
        if (strncmp(line, "{\"type\": \"transcript\",", 22) == 0) { /* `type` always comes first */
            fputs(line, stdout);
            fflush(stdout);
        }
    return 0;
}
