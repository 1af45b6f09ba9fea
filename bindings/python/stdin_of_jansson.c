/* stdin_of_jansson.c - `stdin` as the code of Debian's libjansson.a sees it, in the library of a wheel alone.
 *
 * That archive is for programs: it reaches another library's variable as if it lay in the program itself, which a shared
 * library cannot offer. There is one such place, in json_loadf(), which nobody here calls: it compares its file with
 * stdin. This pointer, which the version map keeps within the library, is equal to no file. */
extern void *stdin;
void *stdin = 0;
