R=127.0.0.1:5000/library
# an image of one layer under the name that the recording has pulled
docker create --name src busybox >/dev/null; docker export src | docker import -c 'CMD ["sh"]' -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - $R/busybox; docker rm src
docker create --name keep $R/busybox >/dev/null
docker images; docker images -a --digests --no-trunc; docker images --filter dangling=true --filter reference='*/busybox' -q; docker image inspect $R/busybox; docker history $R/busybox
docker tag $R/busybox $R/bb2:v1; docker rmi $R/bb2:v1
docker save -o ./s.tar $R/busybox; docker load -i ./s.tar; docker load -q -i ./s.tar; tar tvf ./s.tar
docker run -d --name ii $R/busybox sleep 100; docker rmi $R/busybox; docker rmi -f $R/busybox; docker rm -f ii; docker rmi nosuch
mkdir one; echo x > one/f; tar -c one | docker import -m "note" -c 'ENV X=1' - imp:1; docker image inspect imp:1; docker rmi imp:1
docker image prune -f; docker image prune -af --filter label=x; docker search busybox; docker load -i "$IMAGES"
docker image ls --tree
docker rm keep
