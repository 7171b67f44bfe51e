"""What `neuroglot.data.render` is made of: style, lines, ground and effects, a file each."""
